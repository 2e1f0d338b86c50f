package names

// The verbs of the helper, which does what only root may, with their arguments.
const (
	VerbRestart         = "restart"          // UNIT
	VerbReload          = "reload"           // UNIT
	VerbStartPM2        = "start-pm2"        //
	VerbNginxTest       = "nginx-test"       // says what nginx says, and "# configuration file PATH:" for each file that it has read
	VerbNginxReload     = "nginx-reload"     //
	VerbNginxErrors     = "nginx-errors"     // the last lines of nginx's error log that tell of trouble
	VerbCertificate     = "certificate"      // SITE NAME...: has certbot get a certificate that is called SITE, with these names
	VerbCertificateInfo = "certificate-info" // SITE: its certificate with the chain, as PEM; nothing where there is none
)
